"""The probe for PyG."""
