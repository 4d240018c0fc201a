"""Twelve short notes on Python's keywords, which `briefing.py` has summarised: the same on every Python."""

__all__ = ("NOTES",)

_TEXTS = {
    "with": """
        The with statement runs a block inside a context manager. Entering the block calls the manager's enter
        method, and the value that this returns is bound to the name after as. Leaving the block calls its exit
        method, however the block is left. A manager may suppress the exception that ended the block.
    """,
    "try": """
        The try statement guards a block against exceptions. An except clause handles the exceptions of its
        type, and the clauses are tried in order. The else clause runs if the block raised no exception. The
        finally clause always runs, and an exception that no clause handled is raised again after it.
    """,
    "async": """
        A function that is defined by async def is a coroutine function. Calling it runs nothing and returns a
        coroutine. Awaiting the coroutine runs the function until it waits for something itself. Only inside a
        coroutine function may one await, or use async for and async with.
    """,
    "class": """
        A class statement runs its body in a new namespace and makes a class of that. The names that the body
        binds become attributes of the class. A class inherits the attributes of its bases, and looks them up in
        the order of its method resolution. Decorators are applied to the class when it is complete.
    """,
    "import": """
        The import statement finds a module, runs it unless that has been done, and binds a name. A module is
        run once for each process, since the table of modules keeps it. An import from a package binds names of
        the package or its modules. A module that fails while it runs is taken out of the table again.
    """,
    "raise": """
        The raise statement raises an exception, or the active one again where none is given. The clause from
        sets the cause of the exception. An exception that is raised in a handler has the handled one as its
        context. A traceback prints the cause, or else the context, above the exception.
    """,
    "lambda": """
        A lambda expression makes a function without a name. Its body is one expression, and the function
        returns the value of that. A lambda sees the names around it when it is called, not when it is made.
        Annotations and statements have no place in a lambda.
    """,
    "yield": """
        A function with a yield expression is a generator function. Calling it returns a generator, and each
        step of that runs the function up to the next yield. The generator keeps the local names between two
        steps. Closing the generator raises an exception at the yield, so that a finally clause can clean up.
    """,
    "global": """
        The global statement says that names of a block are those of the module. Without it an assignment makes
        a name local to the function. A function may read a name of the module without the statement. The
        statement must come before the names are used in the block.
    """,
    "del": """
        The del statement unbinds a name, or removes an attribute or an item. Deleting a name does not destroy
        the object that it was bound to. An object is destroyed when nothing refers to it any more. Deleting a
        slice removes all of its items from the sequence.
    """,
    "assert": """
        The assert statement raises an error if its condition is false. A second expression becomes the message
        of the error. With optimisation the statement is left out, so the condition is not evaluated. A program
        must not depend on an assert statement for checks of its input.
    """,
    "while": """
        The while statement repeats its body as long as its condition is true. The else clause runs when the
        condition is false. A break ends the loop without the else clause. A continue goes back to the
        condition.
    """,
}

NOTES = {name: " ".join(text.split()) for name, text in _TEXTS.items()}
