"""The page that `tunemake web` serves, in Streamlit: page.py is what it runs, the other modules are its parts."""
