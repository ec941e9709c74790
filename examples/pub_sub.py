"""Publish and subscribe: a newswire tells its readers, without knowing who they are.

A topic is words with dots between; in a subscription `*` stands for one word and `#` for any number. Readers get what
is published while they subscribe, in that order; one that is slow, or that fails, delays nobody. A reader that ends is
out at once, and its next incarnation subscribes again.
"""

from __future__ import annotations

from avm import VM, Actor, ChildSpec, Request, child, event, on, run, supervisor


@event
class Story:
    headline: str


@event
class Read(Request[list[str]]):
    pass


class Reader(Actor):
    def __init__(self, *topics: str) -> None:
        self.topics = topics
        self.seen: list[str] = []

    def starting(self) -> None:
        for topic in self.topics:
            self.service("router").subscribe(topic)

    @on(Story)
    def take(self, story: Story) -> None:
        if not story.headline:
            raise ValueError("a story without a headline")
        self.seen.append(story.headline)

    @on(Read)
    def read(self, _: Read) -> list[str]:
        return self.seen


def town() -> ChildSpec:
    ada = child("ada", Reader, "news.science", "news.sport.#")
    bob = child("bob", Reader, "news.*")
    return supervisor("town", children=[ada, bob])


async def main() -> None:
    async with VM(town(), observers=[]) as vm:
        for topic, headline in (
            ("news.science", "Water on Mars"),
            ("news.sport.tennis", "A long match"),
            ("news.arts", "A new opera"),
            ("weather", "Nobody subscribes to this"),
        ):
            print(f"{headline!r} went to {vm.router.publish(topic, Story(headline))}")
        for name in ("ada", "bob"):
            print(f"{name} has read {await vm.ask(name, Read())}")

        vm.router.publish("news.arts", Story(""))
        await vm.kernel.idle()
        print(f"after bob's crash it goes to {vm.router.publish('news.arts', Story('An encore'))}")
        print(f"bob has read {await vm.ask('bob', Read())}")


if __name__ == "__main__":
    run(main)
