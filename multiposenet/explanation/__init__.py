"""Why every peak of a picture went where it went: in numbers, in words, and as a page with drawings."""
