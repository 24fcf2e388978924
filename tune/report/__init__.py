"""report.html and compare.html: data, figures, sections, and the page that they are written into."""
