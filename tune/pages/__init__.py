"""Template, style and script of the pages that `tune.page` writes."""
