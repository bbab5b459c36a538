"""The tabs of the studio, a file each: `TITLE`, `build(shelf)` inside the open tab, `routes(shelf)` for addresses
of its own, if any. What they do is done by the rooms of the command line; here are only widgets and wiring."""
