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
