"""Training by several processes: who they are, what they tell each other, and how a step is shared."""
