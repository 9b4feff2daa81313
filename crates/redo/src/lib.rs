//! (page, record) -> page, exactly as PostgreSQL's own recovery; one module a resource manager.
