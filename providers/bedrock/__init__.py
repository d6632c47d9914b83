"""Amazon Bedrock: chat through Converse, and customization jobs for Amazon's Nova models.

Nothing here is imported before a model at a `bedrock:` address is used.
"""
