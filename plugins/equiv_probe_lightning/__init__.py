"""The probe for Lightning."""
