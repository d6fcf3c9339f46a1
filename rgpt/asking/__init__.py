"""Asking endpoints that cost money and fail: a budget, a pace, retries, and what a journal says was paid for.

`budget` what may be spent and how fast · `caller` one answer, with retries · `ledger` what a journal says of
requests · `answers` what an answer is worth.
"""
