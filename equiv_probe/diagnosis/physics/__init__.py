"""Do outputs that must agree with each other do so?"""
