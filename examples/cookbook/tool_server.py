"""Tools for the recipe that speaks MCP. As a script it serves them over stdio, which is how a client starts it."""

from mcp.server import MCPServer
from mcp.server.mcpserver.exceptions import ToolError

AGES = {"Ada": 36, "Grace": 85}


def make_tools() -> MCPServer:
    tools = MCPServer("tools", log_level="ERROR")

    @tools.tool()
    async def age_of(name: str) -> dict[str, int]:
        """Return the age that somebody reached."""
        if name not in AGES:
            raise ToolError(f"nobody is called {name}")
        return {name: AGES[name]}

    @tools.tool()
    async def shout(text: str) -> str:
        """Return the text in capitals."""
        return text.upper()

    return tools


if __name__ == "__main__":
    make_tools().run("stdio")
