"""OceanKit's parts."""
