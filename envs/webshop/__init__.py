"""WebShop (Yao et al. 2022): find a product by an instruction, choose its options, buy it. Pages are text.

- factory.py: configuration, and the factory behind the name
- catalogue.py: products from the data files;  goals.py: what there is to shop for;  shop.py: both loaded once
- search.py: the search engine
- actions.py: what a shopper can do;  session.py: where it leads;  pages.py: what pages say
- reward.py: the score of a purchase;  nouns.py: the nouns of titles, which it rests on
- prompts.py: full prompts, memory;  compact.py: prompts for small models
- env.py: the environment;  oracle.py: scripted shoppers and their pass@k
"""
