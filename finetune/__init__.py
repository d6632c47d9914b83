"""From what a society said to what its models learn: datasets, and the jobs that train on them."""
