"""Tables of logged data: their columns, their rows, and the data sets made of them."""
