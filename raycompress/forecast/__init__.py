"""What a proposal will cost and bring, before it trains."""
