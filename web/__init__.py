"""The status page, over the store and the worklist. `web.app.create_page` builds it."""
