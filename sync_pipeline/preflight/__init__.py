"""Preflight: is everything there that a sync needs, and may our roles do what they must and no more?"""
