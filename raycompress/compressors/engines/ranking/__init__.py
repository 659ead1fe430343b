"""Pruners that rank what a layer has and remove the least of it: a few lines of torch each, no library behind them."""
