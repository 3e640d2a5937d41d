"""One module per page: the frozen view it shows, how that is made, its tables, and what its forms do."""
