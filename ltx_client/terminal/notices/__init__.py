"""What a person is told before a job is sent: what it will cost, why it will wait, what is cut."""
