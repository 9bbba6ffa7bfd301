"""How staff's pages write dates: to the second, and sortable."""
