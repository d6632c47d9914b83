"""The judge: decides in processes of its own, by computer algebra, whether expressions are equal."""
