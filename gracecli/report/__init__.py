"""Tables, plots and result cards."""
