"""The page that runs an exported detector in a browser, and the small server that shows it."""
