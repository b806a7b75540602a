"""Predict the rows that are due, with the release that is live."""


def predict(release, requests):
    return release.predict(requests)
