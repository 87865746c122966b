"""Make the stack's DynamoDB tables as the template defines them."""

from typing import Any

FEED = {
    "IndexName": "feed",
    "KeySchema": [
        {"AttributeName": "feed", "KeyType": "HASH"},
        {"AttributeName": "changed_at", "KeyType": "RANGE"},
    ],
    "Projection": {"ProjectionType": "ALL"},
}


def make_table(dynamodb: Any, name: str, key: str, *indexes: Any) -> None:
    """Make a table whose key and indexes are text."""
    names = [key, *(part["AttributeName"] for index in indexes for part in index["KeySchema"])]
    more = {"GlobalSecondaryIndexes": list(indexes)} if indexes else {}
    dynamodb.create_table(
        TableName=name,
        KeySchema=[{"AttributeName": key, "KeyType": "HASH"}],
        AttributeDefinitions=[{"AttributeName": name, "AttributeType": "S"} for name in names],
        BillingMode="PAY_PER_REQUEST",
        **more,
    )
