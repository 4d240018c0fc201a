// How results of the search are scored: Sphinx's own numbers, and how-to pages before notes on the design.
// docs/check_site.py has the same numbers.
var Scorer = {
  shelves: { "howto/": 4, "tutorial/": 3, index: 3, "cookbook/": 3, "reference/": 2 },
  score: ([docname, , , , score]) => {
    const shelf = Object.keys(Scorer.shelves).find((start) => docname.startsWith(start));
    return score + (shelf === undefined ? 0 : Scorer.shelves[shelf]);
  },
  objNameMatch: 11,
  objPartialMatch: 6,
  objPrio: { 0: 15, 1: 5, 2: -5 },
  objPrioDefault: 0,
  title: 15,
  partialTitle: 7,
  term: 5,
  partialTerm: 2,
};
