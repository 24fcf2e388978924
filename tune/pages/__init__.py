"""Pages for people: parts, figures and chapters; page.html, page.css and page.js are what they are written into."""
