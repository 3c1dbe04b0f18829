"""Which action for which customer: what a policy would earn, whom an action moves, which customers are alike."""
