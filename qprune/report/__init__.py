"""One HTML page that shows a sweep, lets one choose, and works offline."""
