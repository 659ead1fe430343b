"""How small and fast networks become, and what accuracy is left: engines and searches, beside their peers."""
