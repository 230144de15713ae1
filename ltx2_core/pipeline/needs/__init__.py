"""What stages take, counted on shapes before anything runs."""
