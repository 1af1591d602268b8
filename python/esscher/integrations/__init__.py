"""What one adds to other people's trainers, so that they ask an Esscher server: one module for each."""
