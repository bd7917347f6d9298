"""What workers do for the queue, whoever's job it is: whose turn it is, what is stuck, what nobody owns any more."""
