"""Is it a discrete choice: neighbours, order, local frames?"""
