"""Jobs before they are sent and as they are read again: prepared, checked, foreseen, explained."""
