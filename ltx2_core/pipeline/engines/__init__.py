"""Who owns a card, or several: what becomes of a plan when it is run."""
