"""The workers' care of the queue: whose turn it is, which jobs are stuck, which jobs and files have no owner."""
