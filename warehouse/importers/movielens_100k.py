"""Film ratings of 1997-98 (`movielens_100k`).

A film becomes a product and a reward of type `experience` (seen once). A rating of at least `liked_from` stars is a `redemption`; every
rating is also a `review` event of that reward, with the stars as its value. Without purchases the as-of time is that of the last event.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa

from warehouse.importers.common import Notes, age_group_sql, arrow, opened, single

NEEDED = {
    "ratings": ("user_id", "movie_id", "rating", "rated_at"),
    "users": ("user_id", "age", "gender"),
    "movies": ("movie_id", "title", "release_date", "genres"),
}
LIKED_FROM = 4

_FILMS = """
    CREATE VIEW films AS
    SELECT movie_id, coalesce(title, 'Film ' || movie_id) AS name, lower(split_part(genres, '|', 1)) AS category,
        concat_ws('. ', title, 'Genres: ' || replace(genres, '|', ', '), 'Released ' || year(release_date)) AS description
    FROM movies
"""
_EVENT = """
    SELECT {prefix} || user_id || ':' || movie_id AS event_id, $business AS business_id, CAST(user_id AS VARCHAR) AS customer_id,
        rated_at AS occurred_at, {kind} AS event_type, 'film-' || movie_id AS reward_id, 'web' AS channel, CAST(rating AS DOUBLE) AS value
    FROM ratings
"""
_QUERIES = {
    "products": "SELECT 'film-' || movie_id AS product_id, $business AS business_id, name, category FROM films ORDER BY movie_id",
    "rewards": """
        SELECT 'film-' || movie_id AS reward_id, $business AS business_id, name, description, category, 'experience' AS reward_type
        FROM films ORDER BY movie_id""",
    "customers": f"""
        SELECT CAST(user_id AS VARCHAR) AS customer_id, $business AS business_id, min(rated_at) AS joined_at, any_value(gender) AS gender,
            {age_group_sql("any_value(age)")} AS age_group
        FROM users LEFT JOIN ratings USING (user_id) GROUP BY user_id ORDER BY user_id""",  # noqa: S608 - built from constants
    "events": f"""
        {_EVENT.format(prefix="'review:'", kind="'review'")}
        UNION ALL {_EVENT.format(prefix="'liked:'", kind="'redemption'")} WHERE rating >= $liked_from
        ORDER BY occurred_at, event_id""",
}


def tables(folder: Path, business_id: str, notes: Notes, liked_from: int = LIKED_FROM) -> Iterator[tuple[str, pa.Table]]:
    """Read `ratings.parquet`, `users.parquet` and `movies.parquet`.

    Args:
        liked_from: least stars, 1 to 5, that count as a redemption.

    Raises:
        ArtifactError: a file is missing or cannot be read.
        ContractError: a file lacks a column.
    """
    with opened(folder, NEEDED) as connection:
        connection.execute(_FILMS)
        for table, query in _QUERIES.items():
            yield table, arrow(connection, query, business=business_id, liked_from=liked_from)
        below = single(connection, f"SELECT count(*) FROM ratings WHERE rating < {int(liked_from)}")  # noqa: S608 - a number of ours
        notes(f"a rating of {liked_from} stars or more is a redemption; {below:,} lower ones are reviews only")
