"""Searches under a budget of multiply-adds, beside other pruners."""
