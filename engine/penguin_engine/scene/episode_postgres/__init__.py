"""Episodes of many robots in one PostgreSQL database. Needs SQLAlchemy and psycopg (extra `postgresql`)."""
