"""The way to a terminal and to logs: what is printed is cleaned first. How a program begins and ends."""
