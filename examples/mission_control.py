"""Four agents on two hubs bring a satellite to a higher orbit: direct messages, requests, a broadcast and a topic.

Run it::

    python examples/mission_control.py [--altitude KM]

The hub `ground` has the director, the weather station and the relay; the hub `orbit` has the relay and the
navigator. The relay sits on both, and carries questions up and telemetry down. The numbers are those of a Hohmann
transfer around the Earth, as in Bate, Mueller and White, "Fundamentals of Astrodynamics" (1971), chapter 3.
"""

import argparse
import math
import signal
import sys

import trio

from trioflow import HandlerError, Hub, HubConfig, Message, Priority, open_hub

GRAVITY = 398_600.4418
"""The Earth's gravitational parameter, in km³/s²."""
RADIUS = 6_378.137
"""The Earth's equatorial radius, in km."""
PARKING = 300.0
"""Altitude at the beginning, in km."""
READINGS = 4


def main() -> int:
    """Read the command line, fly the mission, and return the exit status."""
    parser = argparse.ArgumentParser(description="Bring a satellite to a higher orbit.")
    parser.add_argument("--altitude", type=float, default=35_786.0, help="where to, in km")
    altitude = parser.parse_args().altitude
    # what shells expect of a program that Ctrl-C ended
    status = 130
    try:
        status = trio.run(fly, altitude)
    except* KeyboardInterrupt:
        print("mission control: interrupted", file=sys.stderr)
    return status


async def fly(altitude: float) -> int:
    """Open both hubs, and let the director do his work."""
    async with open_hub(quiet("orbit")) as orbit, open_hub(quiet("ground")) as ground:
        orbit.register("navigator", Navigator(orbit).handle)
        relay = Relay(ground, orbit)
        for hub in (ground, orbit):
            hub.register("relay", relay.handle)
        orbit.subscribe("relay", "telemetry")
        ground.register("weather", report_weather)
        director = Director(ground)
        ground.register("director", director.handle)
        ground.subscribe("director", "telemetry")
        return await director.conduct(altitude)


def quiet(name: str) -> HubConfig:
    """Return the settings of a hub that tells the log nothing; one handler at a time keeps messages in order."""
    return HubConfig(name=name, max_handlers=1, timeout=5, observer="noop")


class Director:
    """Asks, decides, and listens."""

    def __init__(self, ground: Hub) -> None:
        self.ground = ground
        self.arrived = trio.Event()
        self.heard = 0

    async def conduct(self, altitude: float) -> int:
        """Ask for the weather and for a plan, give the order, and wait for the last reading."""
        weather = await self.ground.request("director", "weather")
        print(f"weather says: {weather.data}")
        try:
            plan = await self.ground.request("director", "relay", {"ask": "plan", "altitude": altitude})
        except HandlerError as error:
            print(f"no plan: {error.__cause__}")
            return 1
        first, second = plan.data["burns"]
        print(f"navigator plans: {first:.3f} km/s, {plan.data['hours']:.2f} h later {second:.3f} km/s")
        told = await self.ground.broadcast("director", f"go for {altitude:,.0f} km")
        print(f"director tells {told} agents to go")
        await self.ground.send("director", "relay", {"ask": "burn", "altitude": altitude}, priority=Priority.HIGH)
        with trio.fail_after(10):
            await self.arrived.wait()
        return 0

    async def handle(self, message: Message) -> None:
        """Take down what telemetry says."""
        self.heard += 1
        print(f"telemetry {self.heard}: {message.data['altitude']:,.0f} km")
        if message.data["last"]:
            self.arrived.set()


async def report_weather(message: Message) -> str | None:
    """Answer the director's question; an order for everybody needs no answer."""
    return "clear" if message.type == "request" else None


class Relay:
    """Sits on both hubs: what it is asked on one it asks on the other."""

    def __init__(self, ground: Hub, orbit: Hub) -> None:
        self.ground = ground
        self.orbit = orbit

    async def handle(self, message: Message) -> Message | None:
        """Carry `message` to the other hub; what went wrong there goes wrong here."""
        if message.topic is not None:
            await self.ground.publish("relay", message.topic, message.data)
        elif message.type == "request":
            return await self.orbit.request("relay", "navigator", message.data)
        elif message.type == "notification":
            await self.orbit.send("relay", "navigator", message.data)
        return None


class Navigator:
    """Computes the transfer, and flies it."""

    def __init__(self, orbit: Hub) -> None:
        self.orbit = orbit

    async def handle(self, message: Message) -> dict[str, object] | None:
        """Answer with a plan, or burn and publish what the altimeter reads."""
        goal = message.data["altitude"]
        if message.data["ask"] == "plan":
            return plan(PARKING, goal)
        for reading in range(1, READINGS + 1):
            # Half an ellipse, from its lowest point to its highest.
            angle = math.pi * reading / READINGS
            data = {"altitude": altitude_at(angle, PARKING, goal), "last": reading == READINGS}
            await self.orbit.publish("navigator", "telemetry", data)
            await trio.sleep(0.05)
        return None


def plan(start: float, goal: float) -> dict[str, object]:
    """Return the two burns in km/s, and the hours between them."""
    if goal <= start:
        raise ValueError(f"{goal:,.0f} km is not above the parking orbit of {start:,.0f} km")
    low, high = RADIUS + start, RADIUS + goal
    middle = (low + high) / 2
    first = math.sqrt(GRAVITY * (2 / low - 1 / middle)) - math.sqrt(GRAVITY / low)
    second = math.sqrt(GRAVITY / high) - math.sqrt(GRAVITY * (2 / high - 1 / middle))
    return {"burns": [first, second], "hours": math.pi * math.sqrt(middle**3 / GRAVITY) / 3_600}


def altitude_at(angle: float, start: float, goal: float) -> float:
    """Return the altitude on the ellipse between the two orbits, `angle` radians after its lowest point."""
    low, high = RADIUS + start, RADIUS + goal
    eccentricity = (high - low) / (high + low)
    return low * (1 + eccentricity) / (1 + eccentricity * math.cos(angle)) - RADIUS


if __name__ == "__main__":
    # Where SIGINT was ignored, as under nohup, Python leaves it so: Ctrl-C ends an example everywhere.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    sys.exit(main())
