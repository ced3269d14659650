"""Tables, pictures, statistics and one HTML page, from result folders alone."""
