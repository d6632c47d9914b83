"""`society sql`: questions to one run or several, in one go or at a prompt."""
