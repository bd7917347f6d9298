"""Write to terminals and logs, cleaning what is printed; begin and end programs."""
