"""The judge: decides by computer algebra, in its own processes, whether expressions are equal."""
