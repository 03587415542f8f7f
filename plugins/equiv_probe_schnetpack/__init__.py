"""The probe for SchNetPack."""
