"""The roles and databases of a cluster, on a PostgreSQL server that others use too."""

import psycopg
import pytest

from scaling.database import create_database
from wine_quality.errors import DeploymentError

pytestmark = pytest.mark.slow


def test_a_role_that_another_cluster_uses_keeps_its_password(postgres):
    admin = postgres.url()
    for _ in range(2):
        create_database(admin, "tenant", "first-password")
    why = "PostgreSQL: the role tenant exists, but this cluster's password for it is refused"
    with pytest.raises(DeploymentError, match=rf"^{why} \(.*\)\. Use a server of your own, or drop the role and its"):
        create_database(admin, "tenant", "another-password")
    psycopg.connect(admin, user="tenant", password="first-password", dbname="tenant").close()


def test_a_role_of_another_cluster_gets_no_database_and_an_interrupted_creation_is_completed(postgres):
    admin = postgres.url()
    with psycopg.connect(admin, autocommit=True) as server:
        server.execute("CREATE ROLE stranger LOGIN PASSWORD 'first-password'")
        with pytest.raises(DeploymentError, match="the role stranger exists"):
            create_database(admin, "stranger", "another-password")
        assert not server.execute("SELECT FROM pg_database WHERE datname = 'stranger'").rowcount
    create_database(admin, "stranger", "first-password")
    psycopg.connect(admin, user="stranger", password="first-password", dbname="stranger").close()
