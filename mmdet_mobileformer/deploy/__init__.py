"""From a trained model to one that runs elsewhere, and fast."""
